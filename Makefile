# make demo, make test: on a bare machine with python3.10+, a C++ compiler and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ifdef AMENT_PREFIX_PATH
EXTRAS := sim,train,data,dev# a sourced ROS 2 is used, never shadowed by wheels
else
EXTRAS := ros,ros-test,sim,train,data,dev,colcon
endif
SOURCES := $(shell find qwen_vla_ros config launch checkpoints msg srv cmake -type f -not -name '*.pyc' 2>/dev/null) \
           setup.py pyproject.toml constraints.txt CMakeLists.txt package.xml

.PHONY: demo test slow lint build install clean
demo: $(VENV)/installed opengl
	$(BIN)/qwen-vla demo $(DEMO_ARGS)
test: $(VENV)/installed opengl
	$(BIN)/python -m pytest -m 'not slow' $(TEST_ARGS)
install: $(VENV)/installed
slow: $(VENV)/installed opengl
	$(BIN)/python -m pytest -m slow $(TEST_ARGS)
lint: $(VENV)/installed
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
build: $(VENV)/installed
	.ci/colcon $(abspath $(VENV)) $(COLCON_ARGS)
clean:
	rm -rf $(VENV) build install log dist *.egg-info

# MuJoCo draws the cameras with EGL or OSMesa: taken from apt where none can be loaded.
.PHONY: opengl
opengl: $(VENV)/installed
	@$(BIN)/python .ci/opengl

$(VENV)/installed: $(SOURCES)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	touch $(VENV)/COLCON_IGNORE
	$(BIN)/python -m pip install -q -c constraints.txt '.[$(EXTRAS)]'
	touch $@
