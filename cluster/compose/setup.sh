#!/usr/bin/env bash
# Create secrets (readable by you only) and settings for compose.yaml; existing files are kept.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
umask 077

secret() { head -c 32 /dev/urandom | od -An -vtx1 | tr -d ' \n'; }

mkdir -p secrets home
for name in ray_token postgres_password mlflow_password mlflow_key; do
  [[ -s secrets/$name ]] || secret >"secrets/$name"
done
[[ -s secrets/pgpass ]] || echo "*:5432:gaplab:gaplab:$(<secrets/postgres_password)" >secrets/pgpass
# Containers run as your user, so they can read the secrets and you can read the results.
[[ -s .env ]] || printf 'GAPLAB_UID=%s\nGAPLAB_GID=%s\nGAPLAB_WORKERS=2\n' "$(id -u)" "$(id -g)" >.env
