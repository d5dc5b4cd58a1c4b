"""Fashion-MNIST: ten kinds of clothes, 32 px gray; a small pixel U-Net that learns in minutes."""
