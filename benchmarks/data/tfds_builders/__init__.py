"""Builders of data sets that tensorflow-datasets does not have. Importing one adds it to those that `tfds.load` knows."""
