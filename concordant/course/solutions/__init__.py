"""Files that solve the exercises, shown when somebody asks for them."""
