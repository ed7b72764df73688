"""The doctor, python -m utils.doctor: what a machine gives to training. Needs no TensorFlow and no packages."""
