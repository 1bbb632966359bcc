"""What deltagram does, one file a job; the same verbs as the command line."""

from deltagram.jobs.demo import demo
from deltagram.jobs.diagnose import diagnose
from deltagram.jobs.export import export
from deltagram.jobs.inspect import inspect
from deltagram.jobs.measure import measure
from deltagram.jobs.merge import merge
from deltagram.jobs.predict import predict
from deltagram.jobs.prune import prune
from deltagram.jobs.rescale import rescale
from deltagram.jobs.restore import restore
from deltagram.jobs.select import select
from deltagram.jobs.tokens import tokens
from deltagram.jobs.train import train
from deltagram.jobs.verify import verify

__all__ = [
    "demo", "diagnose", "export", "inspect", "measure", "merge", "predict", "prune", "rescale", "restore", "select",
    "tokens", "train", "verify",
]  # fmt: skip
