"""Running: one stage, denoising, a whole image-to-image job, a batch of them."""
