"""Where tokens come from: one kind a file, behind one seam."""
