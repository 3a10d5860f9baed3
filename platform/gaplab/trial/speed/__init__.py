"""How fast this machine trains and loads: `gaplab bench`. Nothing is stored, no data is needed."""
