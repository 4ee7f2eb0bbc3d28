"""Pipeline parallelism: each of several processes holds some of the layers of one model."""
