"""Parts of detectors and segmentation networks: pure functions of arrays with fixed shapes.

They compute in float32, and jit and vmap.
"""

from jssl.dense.anchors import cell_anchors as cell_anchors
from jssl.dense.anchors import grid_anchors as grid_anchors
from jssl.dense.boxes import box_area as box_area
from jssl.dense.boxes import box_iou as box_iou
from jssl.dense.boxes import clip_boxes as clip_boxes
from jssl.dense.boxes import decode_boxes as decode_boxes
from jssl.dense.boxes import encode_boxes as encode_boxes
from jssl.dense.losses import box_loss as box_loss
from jssl.dense.losses import head_loss as head_loss
from jssl.dense.losses import objectness_loss as objectness_loss
from jssl.dense.losses import pixel_loss as pixel_loss
from jssl.dense.matcher import IGNORED as IGNORED
from jssl.dense.matcher import NEGATIVE as NEGATIVE
from jssl.dense.matcher import match as match
from jssl.dense.matcher import sample as sample
from jssl.dense.nms import class_nms as class_nms
from jssl.dense.nms import nms as nms
from jssl.dense.regions import Detected as Detected
from jssl.dense.regions import Regions as Regions
from jssl.dense.regions import detections as detections
from jssl.dense.regions import region_losses as region_losses
from jssl.dense.regions import sample_regions as sample_regions
from jssl.dense.roi import roi_align as roi_align
from jssl.dense.roi import roi_max_pool as roi_max_pool
from jssl.dense.rpn import Proposals as Proposals
from jssl.dense.rpn import live_anchors as live_anchors
from jssl.dense.rpn import match_anchors as match_anchors
from jssl.dense.rpn import propose as propose
from jssl.dense.rpn import rpn_losses as rpn_losses
from jssl.dense.upsample import bilinear_kernel as bilinear_kernel
from jssl.dense.upsample import deconvolve_bilinear as deconvolve_bilinear
from jssl.dense.upsample import resize_bilinear as resize_bilinear
