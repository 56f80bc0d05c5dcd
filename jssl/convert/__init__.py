"""Converts weights to other libraries' names, layouts and files."""

from jssl.convert.detectron2 import detectron2_model as detectron2_model
from jssl.convert.detectron2 import export_detectron2 as export_detectron2
from jssl.convert.torchvision import torchvision_resnet as torchvision_resnet
