"""Other people's checkpoints: what is in a file or folder is recognised, and written into the store in our form.

    found = recognise(path)           # NVlabs' pickles, diffusers' folders, our own exported folders
    folder = commit_import(store, name, found, licence)

Nothing in a file is executed, and what has no counterpart here is refused in one sentence.
"""

from pipeline.training.importing.commit import commit_import
from pipeline.training.importing.found import Found
from pipeline.training.importing.own_folder import export_folder
from pipeline.training.importing.recognise import recognise

__all__ = ["Found", "commit_import", "export_folder", "recognise"]
