#!/usr/bin/env bash
# Secrets (files only you can read) and settings for compose.yaml; keeps what is there already.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
umask 077

secret() { head -c 32 /dev/urandom | od -An -vtx1 | tr -d ' \n'; }

mkdir -p secrets home
for name in ray_token postgres_password mlflow_password mlflow_key; do
  [[ -s secrets/$name ]] || secret >"secrets/$name"
done
[[ -s secrets/pgpass ]] || echo "*:5432:gaplab:gaplab:$(<secrets/postgres_password)" >secrets/pgpass
# Containers run as you, so that they can read the secrets and you can read the results.
[[ -s .env ]] || printf 'GAPLAB_UID=%s\nGAPLAB_GID=%s\nGAPLAB_WORKERS=2\n' "$(id -u)" "$(id -g)" >.env
