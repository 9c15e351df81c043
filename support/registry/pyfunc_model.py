"""What the registered model runs: text in, tags out, as MLflow's pyfunc "from code".

`support.registry.export` saves this file with a run's artifacts and the modules that it imports. MLflow runs
it wherever the model is loaded or served, with or without this project. Nothing is pickled.

    model = mlflow.pyfunc.load_model("models:/tagger@champion")
    model.predict(["Transfer learning with BERT"])   # [["attention", "transfer-learning"]]

Source: https://mlflow.org/docs/latest/ml/model/models-from-code/
"""

import json
import os

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import BAD_REQUEST
from mlflow.pyfunc import PythonModel, PythonModelContext

from support.models.params import resolve

LONGEST_TEXT, LONGEST_REQUEST = 10_000, 1_000_000  # characters
MOST_TEXTS = 10_000


class RequestError(MlflowException):
    """The texts are too long or too many. Over HTTP a 400 that says so, and no more than that."""

    def serialize_as_json(self) -> str:
        """Return the message without the request, which MLflow's server puts in front of it."""
        return json.dumps({"error_code": self.error_code, "message": str(self)})


class ServedTagger(PythonModel):
    """A run's tagger behind MLflow's interface. MLflow checks the texts by the type hints of `predict`."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the run's artifacts. Who loads a model by name shall not send MLflow's telemetry either."""
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        mlflow.telemetry.set_telemetry_client()
        self.tagger = resolve(context.model_config["tagger"]).load(context.artifacts["run"])

    def predict(self, model_input: list[str]) -> list[list[str]]:
        """Return each text's tags; a text that fits none gets an empty list. Raise RequestError."""
        sizes = list(map(len, model_input))
        for size, limit, problem in (
            (max(sizes, default=0), LONGEST_TEXT, "A text of {:,} characters"),
            (sum(sizes), LONGEST_REQUEST, "A request of {:,} characters"),
            (len(sizes), MOST_TEXTS, "A request of {:,} texts"),
        ):
            if size > limit:
                raise RequestError(f"{problem.format(size)} is too large: at most {limit:,}.", BAD_REQUEST)
        return self.tagger.predict(model_input)


set_model(ServedTagger())
