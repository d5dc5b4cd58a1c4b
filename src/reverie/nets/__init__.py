"""Architecture only: networks that know nothing of schedules, losses or files.

Every denoising net is called as `net(x, t, *, vector=None, tokens=None, mask=None, residuals=None)`: x (B, C, H, W);
t (B,) float, the reading of the clock; vector (B, V) joins the time embedding; tokens (B, L, D) are attended to where
mask (B, L) is True; residuals are added to the skips of a U-Net, or after the
blocks of a transformer. A net distilled from guidance is also told its scale, guidance (B,).
"""
