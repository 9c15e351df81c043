"""Make the bucket that MLFLOW_ARTIFACTS_DESTINATION names, where it is not there yet."""

import os
from urllib.parse import urlsplit

import boto3

bucket = urlsplit(os.environ["MLFLOW_ARTIFACTS_DESTINATION"]).netloc
s3 = boto3.client("s3", endpoint_url=os.environ["MLFLOW_S3_ENDPOINT_URL"])
if bucket not in [found["Name"] for found in s3.list_buckets()["Buckets"]]:
    s3.create_bucket(Bucket=bucket)
