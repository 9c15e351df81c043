"""The models: params in, a trained tagger out.

trained = train_cnn(Params(), splits)
trained.performance["overall"]["f1"]
trained.tagger.predict(["Transfer learning with BERT"])
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "checkpoint": ["Checkpoint", "CheckpointError"],
        "cnn": ["CNN"],
        "encoding": ["LabelEncoder", "Tokenizer"],
        "evaluation": ["best_threshold", "get_performance"],
        "files": ["ArtifactError"],
        "linear": ["LinearParams", "LinearTagger", "train_linear"],
        "params": ["Params"],
        "rules": ["RuleParams", "RuleTagger", "train_rules"],
        "tagger": ["Tagger", "TextTagger", "Trained"],
        "training": ["Trainer", "train_cnn"],
    },
)
