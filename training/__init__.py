"""From a corpus to a checkpoint. One run, file by file, in the order in which it happens:

    training/cli/prepare.py         a corpus -> a manifest, by one of training/datasets/
    training/cli/main.py            `bcaf-train fit CONFIG`; training/config.py says what a CONFIG may say
    training/fit.py                 A RUN from here to the checkpoint; training/ray_train.py: the same on a cluster
    training/training_data.py       the manifest's dialogues, as
    training/encode.py              vectors of the encoders, kept by training/store.py,
    training/dialogues.py           and as tensors
    training/source.py              which of them make a step
    training/trainer.py             THE TRAINING LOOP
    training/objective.py           what a step minimises
    training/state.py               where it goes on after a crash; training/log.py: what a person sees
    training/predict.py             the decision, fitted on dev
    training/linear.py              the floor that is to be beaten
    training/metrics.py             how good it is
    training/card.py                the model card, in the checkpoint that bcaf_stream/model/checkpoint.py writes

Beside it: evaluate, ablate, tune and adapt, a module each; training/compact/ is the recipe of the weights that
ship.
"""
