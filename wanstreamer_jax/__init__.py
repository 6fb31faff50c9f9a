"""A native-streaming, full-duplex audio-visual agent: one causal Transformer in units of 160 ms.

Dimension letters, the same in every file (einsum, einops and shape comments):
    B sessions   U units       T queries   S keys      N heads    K key/value heads   H head size
    D width      F mlp width   C channels  L layers    R ranks    h, w rows and columns of a picture or grid
"""

__version__ = "0.1.0"
