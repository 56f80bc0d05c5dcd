"""Pure updates of method-specific state: averages, queues, memory banks, centroids."""

from jssl import third_party as third_party  # before anything imports flax
from jssl.numerics import unit_rows as unit_rows
from jssl.state.bank import draw_candidates as draw_candidates
from jssl.state.bank import first_row as first_row
from jssl.state.bank import init_bank as init_bank
from jssl.state.bank import lookup as lookup
from jssl.state.bank import score_candidates as score_candidates
from jssl.state.bank import update_bank as update_bank
from jssl.state.ema import cosine_momentum as cosine_momentum
from jssl.state.ema import ema as ema
from jssl.state.ema import warmup_momentum as warmup_momentum
from jssl.state.kmeans import KMeansResult as KMeansResult
from jssl.state.kmeans import assign as assign
from jssl.state.kmeans import check_clusters as check_clusters
from jssl.state.kmeans import kmeans as kmeans
from jssl.state.pca import PCA as PCA
from jssl.state.pca import Moments as Moments
from jssl.state.pca import add as add
from jssl.state.pca import apply_pca as apply_pca
from jssl.state.pca import fit_pca as fit_pca
from jssl.state.pca import init_moments as init_moments
from jssl.state.queue import check_queue_size as check_queue_size
from jssl.state.queue import enqueue as enqueue
from jssl.state.queue import random_queue as random_queue
from jssl.state.rows import RowUpdate as RowUpdate
from jssl.state.rows import WritesRows as WritesRows
from jssl.state.uniform import uniform_over_clusters as uniform_over_clusters
