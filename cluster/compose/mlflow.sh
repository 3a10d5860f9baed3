#!/usr/bin/env bash
# Start MLflow's server with logins on gaplab's MLflow data. Secrets come from files, never from arguments.
set -euo pipefail

MLFLOW_AUTH_ADMIN_PASSWORD=$(<"${MLFLOW_PASSWORD_FILE:-/run/secrets/mlflow_password}")
MLFLOW_FLASK_SERVER_SECRET_KEY=$(<"${MLFLOW_KEY_FILE:-/run/secrets/mlflow_key}")
export MLFLOW_AUTH_ADMIN_PASSWORD MLFLOW_FLASK_SERVER_SECRET_KEY
export MLFLOW_AUTH_CONFIG_PATH=${MLFLOW_AUTH_CONFIG_PATH:-/etc/gaplab/basic_auth.ini}
export MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false

gaplab mirror # creates the database here, because two programs that create it at once would break it
cd "$GAPLAB_HOME" # the database path in basic_auth.ini is relative to this folder
exec mlflow server --app-name basic-auth --host 0.0.0.0 --port 5000 --workers 2 \
  --backend-store-uri "sqlite:///$GAPLAB_HOME/mlflow.db" \
  --artifacts-destination "file://$GAPLAB_HOME/mlflow-artifacts" \
  --allowed-hosts 'localhost:5000,127.0.0.1:5000' \
  --cors-allowed-origins 'http://localhost:5000,http://127.0.0.1:5000'
