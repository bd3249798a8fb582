#!/bin/sh
# Says which start of the machine it is in.
echo "passes: in start $OUTER_START"
