"""Reading a YAML file and flags into checked settings; knows no experiment."""
