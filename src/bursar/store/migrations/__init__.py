"""The schema's history, run by alembic; `upgrade` brings a database to the newest."""
