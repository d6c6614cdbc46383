"""Dated prices and the cost of usage: exact integers, in 10⁻⁹ of a currency, rounded once."""
