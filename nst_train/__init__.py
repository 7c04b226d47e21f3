"""Training of image transform networks in PyTorch. Import the modules; this file stays empty of torch."""
