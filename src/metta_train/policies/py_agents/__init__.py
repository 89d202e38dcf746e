"""Hand-written policies: `<name>.py` here and `conf/py_agent/<name>.yaml` make an agent."""
