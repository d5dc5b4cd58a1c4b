"""reverie: one house for diffusion models. Predict, then bridge."""
