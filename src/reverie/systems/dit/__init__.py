"""DiT and DiT-MoE: their nets and classes, by the names that the published files and diffusers give the weights."""
