#!/bin/sh
# MLflow's server with a login. Runs go to PostgreSQL, files to /artifacts; clients see neither.
set -eu
cat > /tmp/basic_auth.ini <<END
[mlflow]
default_permission = NO_PERMISSIONS
database_uri = postgresql+psycopg://sweep:${POSTGRES_PASSWORD}@postgres:5432/mlflow_users
admin_username = admin
admin_password = ${MLFLOW_PASSWORD}
END
export MLFLOW_AUTH_CONFIG_PATH=/tmp/basic_auth.ini
exec mlflow server --app-name basic-auth --host 0.0.0.0 --port 5000 --workers 2 \
    --backend-store-uri "postgresql+psycopg://sweep:${POSTGRES_PASSWORD}@postgres:5432/mlflow" \
    --artifacts-destination /artifacts --serve-artifacts \
    --allowed-hosts "mlflow:5000,localhost:5000,127.0.0.1:5000"
