"""Registered models: a name that stays, and the version that answers to it.

promote()    # the best run becomes the champion, if it is better than the present one
champion()   # the present one, or None
mlflow.pyfunc.load_model("models:/tagger@champion").predict(texts)   # anywhere
"""

from support.registry.model_card import model_card
from support.registry.promote import PromotionError, champion, promote

__all__ = ["PromotionError", "champion", "model_card", "promote"]
