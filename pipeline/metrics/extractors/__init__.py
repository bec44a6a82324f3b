"""Extractors: settings, what they load, and what they build.

An extractor is determined by its settings and one blob of bytes (weights, or a program). `settings.load()` gives the
bytes for `Inception` and `File`; those of `Classifier` are made by `train_classifier`. Then, for all three,

    settings.digest(data)                        the name under which its features are kept, without building it
    settings.resize                              how images get to the size that it takes, in words
    settings.classes                             whose classes it knows: those of the data set, others, or none
    settings.distance_name(data)                 what a Frechet distance of its features is called
    settings.build(data, image_shape, device)    the Extractor; a process that did not load can be sent the bytes

so that what was hashed is what runs. An extractor is added as one class like these, joined in the union.
"""

from pipeline.metrics.extractors.base import Extractor, Features, ImageShape
from pipeline.metrics.extractors.classifier import Classifier
from pipeline.metrics.extractors.classifier_training import TrainedClassifier, train_classifier
from pipeline.metrics.extractors.exporting import export_extractor
from pipeline.metrics.extractors.file import File
from pipeline.metrics.extractors.inception import Inception

ExtractorSettings = Inception | File | Classifier

__all__ = [
    "Classifier",
    "Extractor",
    "ExtractorSettings",
    "Features",
    "File",
    "ImageShape",
    "Inception",
    "TrainedClassifier",
    "export_extractor",
    "train_classifier",
]
