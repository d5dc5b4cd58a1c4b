"""Sana and Sana 1.5: their nets, by the names that diffusers gives the weights."""
