"""The store: entries, sums and keys in SQLite (or Postgres). The only floor that imports a database driver."""
