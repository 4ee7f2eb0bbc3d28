"""Tensor parallelism: each of several processes holds a part of every large weight of one model."""
