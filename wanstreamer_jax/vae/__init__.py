"""The causal autoencoders: latents in, sound and picture out, and back."""
