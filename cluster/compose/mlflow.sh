#!/usr/bin/env bash
# MLflow's server over gaplab's mirror, for people who log in; secrets come from files, never as arguments.
set -euo pipefail

MLFLOW_AUTH_ADMIN_PASSWORD=$(<"${MLFLOW_PASSWORD_FILE:-/run/secrets/mlflow_password}")
MLFLOW_FLASK_SERVER_SECRET_KEY=$(<"${MLFLOW_KEY_FILE:-/run/secrets/mlflow_key}")
export MLFLOW_AUTH_ADMIN_PASSWORD MLFLOW_FLASK_SERVER_SECRET_KEY
export MLFLOW_AUTH_CONFIG_PATH=${MLFLOW_AUTH_CONFIG_PATH:-/etc/gaplab/basic_auth.ini}
export MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false

gaplab mirror # makes MLflow's database: two programs that make it at once break it
cd "$GAPLAB_HOME" # basic_auth.ini names its database from here
exec mlflow server --app-name basic-auth --host 0.0.0.0 --port 5000 --workers 2 \
  --backend-store-uri "sqlite:///$GAPLAB_HOME/mlflow.db" \
  --artifacts-destination "file://$GAPLAB_HOME/mlflow-artifacts" \
  --allowed-hosts 'localhost:5000,127.0.0.1:5000' \
  --cors-allowed-origins 'http://localhost:5000,http://127.0.0.1:5000'
