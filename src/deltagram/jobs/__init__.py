"""What deltagram does, one file a job; the same verbs as the command line."""

from deltagram.jobs.demo import demo
from deltagram.jobs.diagnose import diagnose
from deltagram.jobs.export import export
from deltagram.jobs.inspect import inspect
from deltagram.jobs.library_add import library_add
from deltagram.jobs.library_init import library_init
from deltagram.jobs.library_list import library_list
from deltagram.jobs.library_pull import library_pull
from deltagram.jobs.library_push import library_push
from deltagram.jobs.library_remove import library_remove
from deltagram.jobs.library_verify import library_verify
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
    "demo", "diagnose", "export", "inspect", "library_add", "library_init", "library_list", "library_pull",
    "library_push", "library_remove", "library_verify", "measure", "merge", "predict", "prune", "rescale", "restore",
    "select", "tokens", "train", "verify",
]  # fmt: skip
