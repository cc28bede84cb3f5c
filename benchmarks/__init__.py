"""What measures the product against itself and others. Each file is started as ``python -m benchmarks.<name>``."""

from pipeline.system.library_patches import prepare_libraries

prepare_libraries()
