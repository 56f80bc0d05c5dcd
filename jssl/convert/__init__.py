"""Reads published weights; converts weights to other libraries' names, layouts and files."""

from jssl.convert.detectron2 import detectron2_model as detectron2_model
from jssl.convert.detectron2 import export_detectron2 as export_detectron2
from jssl.convert.export import FORMATS as FORMATS
from jssl.convert.export import OUTPUTS as OUTPUTS
from jssl.convert.export import export_run as export_run
from jssl.convert.pretrained import FAMILIES as FAMILIES
from jssl.convert.pretrained import import_if_weights as import_if_weights
from jssl.convert.pretrained import import_weights as import_weights
from jssl.convert.pretrained import load_pretrained as load_pretrained
from jssl.convert.pretrained import read_pretrained as read_pretrained
from jssl.convert.torch_file import read_torch as read_torch
from jssl.convert.torchvision import torchvision_resnet as torchvision_resnet
