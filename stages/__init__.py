"""What trains and evaluates. One file per algorithm; each is started as ``python -m stages.<algorithm>``."""

from pipeline.system.library_patches import prepare_libraries

prepare_libraries()
