"""Long-tailed image classification: GLMC and the systems it is compared with."""

__version__ = "0.1.0"
