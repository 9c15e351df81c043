"""What may hold a secret is found, in the ways that cells, shells and files hand one over; and code is not."""

import random
import string

import pytest

from support.tracking.secrets import finding, holds_secrets_by_name

TOKEN = "2Zx9QfTt7LmNpRsVwYb3Kd5Hg8J"  # made up, as all here
FORMS = [
    'ngrok.set_auth_token("{}")',
    "!ngrok config add-authtoken {}",
    "!ngrok authtoken {}",
    "%env MY_TOKEN={}",
    "!export DB_PASSWORD={}",
    "NGROK_AUTHTOKEN={}",
    "authtoken: {}",
    'wandb.login(key="{}")',
    "!wandb login {}",
    'comet_ml.login("{}")',
    'psycopg2.connect("host=db user=me password={}")',
    "AWS_SECRET_ACCESS_KEY={}",
    'headers = {{"Authorization": "Bearer {}"}}',
    'creds = dict(token="{}")',
    "postgresql://me:{}@db/x",
    '"https://host.example/x?access_token={}"',
    'os.environ.setdefault("MLFLOW_TRACKING_PASSWORD", "{}")',
    "machine api.example user me password {}",
]
SHORT_FORMS = [
    'password = "{}"',
    "os.environ['DB_PASSWORD'] = '{}'",
    "!export PGPASSWORD={}",
    "postgresql://me:{}@db/x",
    "psql 'host=db password={}'",
    "mysql -u me --password={}",
    "curl -u me:x https://host.example/x?access_token={}",
    "!PGPASSWORD={} psql -h db",
    "!curl -u me:{} https://host.example/x",
    "curl -H 'X-API-Key: {}'",
    "docker login -u me -p {}",
    "mysql -u me -p{}",
    "create_engine('postgresql://me:{}@db/x')",
    "%set_env API_KEY {}",
    "KAGGLE_KEY={}",
    "client --api-key {}",
    "requests.get(url, auth=('me', '{}'))",
    "password = (\n    '{}'\n)",
    'TOKEN = """{}"""',
]


@pytest.mark.parametrize("form", FORMS)
def test_a_token_is_found_in_every_usual_form(form: str) -> None:
    rng = random.Random(form)
    others = ["".join(rng.choices(string.ascii_letters + string.digits, k=size)) for size in (20, 32, 40)]
    for token in (TOKEN, *others):
        assert finding(f"import os\n{form.format(token)}\n"), form.format(token)


@pytest.mark.parametrize("form", SHORT_FORMS)
@pytest.mark.parametrize("word", ["hunter22", "korrektes-pferd", "S0mmer!"])
def test_a_short_password_is_found_by_what_it_is_given_to(form: str, word: str) -> None:
    assert finding(form.format(word)), form.format(word)


@pytest.mark.parametrize(
    "token",
    [
        "ghp_" + "a1B2" * 9,
        "AKIA" + "ABCDEFGHIJKLMNOP",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIB\n-----END RSA PRIVATE KEY-----",
        "xoxb-123456789012-1234567890123-" + "aB3" * 8,
    ],
    ids=["github", "aws", "private key", "slack"],
)
def test_a_well_known_shape_is_found_wherever_it_stands(token: str) -> None:
    assert finding(f"use {token} here"), token


CODE = [
    "tokens = tokenizer.encode(['graphs'])",
    "tokenizer = Tokenizer.fit(splits.train.text)\nprint(len(tokenizer), 'tokens in the vocabulary')",
    "from support import data, tracking\nsplits = data.split(data.load_projects(), seed=1234)",
    "run_id = '0123456789abcdef0123456789abcdef'",
    'assert splits.digest == "a3f0c1d2e4b5a697"',
    "token = input('Your token: ')",
    "password = getpass()",
    "token = os.environ['NGROK_AUTHTOKEN']",
    'os.environ.get("MLFLOW_TRACKING_PASSWORD")',
    "def login(user: str, password: str) -> None:",
    "board.show_credentials()",
    "url = 'https://github.com/GokuMohandas/Made-With-ML/blob/main/README.md'",
    "mlflow.set_tracking_uri('sqlite:///stores/mlflow.db')",
    "for author, key in authors.items():\n    print(author, key)",
    "key_points = [1, 2, 3]",
    "!mkdir -p ../stores/data",
    "!docker run -p 8080:8080 image",
    "authors = ('Anna', 'Berta')",
    "BATCH_KEY = 3",
    "url = 'http://127.0.0.1:5000/#/experiments/1'",
]


@pytest.mark.parametrize("code", CODE)
def test_code_that_hands_over_no_secret_is_kept(code: str) -> None:
    assert finding(code) is None


@pytest.mark.parametrize(
    "name",
    [".env", ".env.local", "prod.env", "deploy/.env", ".netrc", "id_rsa", "server.pem", "kaggle.json", ".pypirc"],
)
def test_files_that_hold_secrets_are_known_by_their_names(name: str) -> None:
    assert holds_secrets_by_name(name)


@pytest.mark.parametrize("name", ["train.py", "environment.py", "README.md", "tokenizer.json", "key.py"])
def test_other_files_are_not(name: str) -> None:
    assert not holds_secrets_by_name(name)
