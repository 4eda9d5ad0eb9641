"""Installs the folder saved_models/ inside the package, as l2l_tf/saved_models/."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["l2l_tf", "l2l_tf.*"]), "l2l_tf.saved_models"],
    package_dir={"l2l_tf.saved_models": "saved_models"},
    package_data={"l2l_tf": ["py.typed"], "l2l_tf.saved_models": ["**/*"]},
)
