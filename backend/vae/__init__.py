"""One file a VAE mode; they share the interface in `base` and swap freely."""
