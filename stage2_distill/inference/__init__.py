"""Features of a scene's Gaussians: how a scene becomes clouds of voxels (clouds.py), what is asked of the encoder's
latent (outputs.py), one scene (scene.py) and many (job.py) to files.
"""
