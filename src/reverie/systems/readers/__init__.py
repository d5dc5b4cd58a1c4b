"""The two judges: classifiers that read avatars and Fashion-MNIST, so that generated pictures can be checked."""
