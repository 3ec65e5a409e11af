#!/bin/sh
# Makes the role that the server runs as: it owns nothing, and `latchkey migrate` gives it what it needs.
set -eu
psql -v ON_ERROR_STOP=1 -v password="$POSTGRES_SERVER_PASSWORD" --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" <<'SQL'
create role latchkey_server login password :'password';
revoke create on schema public from public;
SQL
