"""Who speaks, where several people share one channel: segmentation, voice vectors, clustering, cuts."""
