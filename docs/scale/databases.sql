CREATE DATABASE mlflow OWNER sweep;
CREATE DATABASE mlflow_users OWNER sweep;
