"""Registered encoders as files that other programs take: weights by name, graphs, and detectron2's backbones."""
