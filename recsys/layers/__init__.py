"""Layers: plain `nn.Module`s that know tensors only."""
