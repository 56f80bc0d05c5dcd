"""Parts of detectors: pure functions of arrays with fixed shapes, in float32, that jit and vmap."""

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
from jssl.dense.matcher import IGNORED as IGNORED
from jssl.dense.matcher import NEGATIVE as NEGATIVE
from jssl.dense.matcher import match as match
from jssl.dense.matcher import sample as sample
from jssl.dense.nms import class_nms as class_nms
from jssl.dense.nms import nms as nms
from jssl.dense.roi import roi_align as roi_align
from jssl.dense.roi import roi_max_pool as roi_max_pool
