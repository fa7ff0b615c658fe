"""
The MuJoCo model of ALOHA, written from code: table, objects, cameras, two ViperX 300s.

Link lengths, limits and efforts come from vx300s.py; link masses are Interbotix' figures (urdf/
vx300s.urdf.xacro). Compiled once: the world gives objects their colours and puts those of another
task out of sight.
"""

import numpy as np

from qwen_vla_ros.sim.aloha import vx300s

OBJECT, TABLE = 2, 4  # collision bits
ARM = {'left': 1, 'right': 8}

CUBE = 0.04  # m, edge
PEG = (0.12, 0.028, 0.028)  # m, length, width, height
SOCKET_LENGTH, SOCKET_INSIDE, SOCKET_WALL = 0.10, 0.040, 0.007  # m
SOCKET_OUTSIDE = SOCKET_INSIDE + 2 * SOCKET_WALL
OBJECTS = ('cube0', 'cube1', 'cube2', 'peg', 'socket')

# Stiffness (Nm/rad or N/m) and damping (Nms/rad or Ns/m) of each servo.
_SERVO = {
    'waist': (900, 30),
    'shoulder': (1400, 45),
    'elbow': (900, 24),
    'forearm_roll': (80, 1.6),
    'wrist_angle': (200, 4.0),
    'wrist_rotate': (40, 0.8),
    'left_finger': (1200, 25),
    'right_finger': (1200, 25),
}
HIGH_CAMERA = {'position': (0.0, -0.30, 0.98), 'target': (0.0, -0.01, 0.04), 'fovy': 50.0}
WRIST_CAMERA = {'position': (0.0, 0.0, 0.075), 'tilt': 0.50, 'fovy': 62.0}

_DARK, _METAL, _PAD = '0.11 0.11 0.12 1', '0.32 0.33 0.35 1', '0.17 0.17 0.18 1'
_GRIP = 'condim="4" friction="1.2 0.02 0.001" solimp="0.95 0.99 0.001" solref="0.006 1"'


def world_xml(timestep_s: float) -> str:
    """Return the MJCF text of the whole world."""
    return f"""
<mujoco model="aloha">
  <compiler angle="radian" autolimits="true"/>
  <option timestep="{timestep_s}" integrator="implicitfast" cone="elliptic" impratio="10"/>
  <visual>
    <quality shadowsize="0" offsamples="0"/>
    <global offwidth="1280" offheight="960"/>
    <map znear="0.01" zfar="20"/>
    <headlight ambient="0.35 0.35 0.35" diffuse="0.1 0.1 0.1" specular="0 0 0"/>
  </visual>
  <asset>
    <texture name="sky" type="skybox" builtin="gradient" rgb1="0.78 0.80 0.82"
      rgb2="0.55 0.57 0.60" width="64" height="384"/>
    <texture name="table" type="2d" builtin="flat" mark="random" random="0.04"
      rgb1="1 1 1" rgb2="1 1 1" markrgb="0.88 0.88 0.88" width="256" height="256"/>
    <material name="table" texture="table" texrepeat="5 4" rgba="0.6 0.6 0.55 1"
      specular="0" reflectance="0"/>
    <material name="object" specular="0.15" shininess="0.2"/>
  </asset>
  <default>
    <default class="arm">
      <geom rgba="{_DARK}" friction="0.8" group="2"/>
      <joint damping="0.1" armature="0.03"/>
    </default>
    <default class="object">
      <geom contype="{OBJECT}" conaffinity="{OBJECT | TABLE}" material="object" {_GRIP}/>
    </default>
  </default>
  <worldbody>
    <light name="lamp" pos="0.3 -0.2 1.6" dir="0 0 -1" directional="true"
      diffuse="0.6 0.6 0.6" specular="0.1 0.1 0.1" castshadow="false"/>
    <camera name="ego" pos="0 -0.3 1"/>
    <geom name="table" type="box" pos="0 0 -0.02" size="0.65 0.42 0.02" material="table"
      contype="{TABLE}" conaffinity="0" friction="0.9 0.01 0.002"/>
    <geom name="floor" type="plane" pos="0 0 -0.75" size="4 4 0.1" rgba="0.42 0.40 0.38 1"
      contype="0" conaffinity="0"/>{_objects_xml()}{_arm_xml('left')}{_arm_xml('right')}
  </worldbody>
  <equality>
    {_mimic('left')}
    {_mimic('right')}
  </equality>
  <actuator>{_servo_xml()}
  </actuator>
</mujoco>
"""


def _objects_xml() -> str:
    """Return three cubes, a peg along x, and a square tube along x that is open at both ends."""
    cube = ' '.join([str(CUBE / 2)] * 3)
    peg = ' '.join(str(edge / 2) for edge in PEG)
    bodies = [
        _object(f'cube{i}', f'<geom type="box" size="{cube}" mass="0.05"/>') for i in range(3)
    ]
    bodies.append(_object('peg', f'<geom type="box" size="{peg}" mass="0.05"/>'))
    middle = (SOCKET_INSIDE + SOCKET_WALL) / 2
    walls = []
    for axis, sign in ((1, 1), (1, -1), (2, 1), (2, -1)):
        place, size = np.zeros(3), np.array([SOCKET_LENGTH, SOCKET_INSIDE, SOCKET_OUTSIDE]) / 2
        if axis == 2:
            size = np.array([SOCKET_LENGTH, SOCKET_INSIDE, SOCKET_INSIDE]) / 2
        place[axis], size[axis] = sign * middle, SOCKET_WALL / 2
        walls.append(f'<geom type="box" pos="{_words(place)}" size="{_words(size)}" mass="0.02"/>')
    bodies.append(_object('socket', ''.join(walls)))
    return ''.join(bodies)


def _object(name: str, geoms: str) -> str:
    """Return one free body."""
    return f"""
    <body name="{name}" pos="0 0 0.1" childclass="object">
      <joint name="{name}" type="free" damping="0.0003"/>
      {geoms}
    </body>"""


def _arm_xml(side: str) -> str:
    """Return the nested bodies of one arm, base first."""
    arm, p = vx300s.VX300S, f'{side}_'
    elbow_x, elbow_z = arm.elbow_offset
    place = f'{-vx300s.BASE_X} 0 0' if side == 'left' else f'{vx300s.BASE_X} 0 0'
    turn = '0 0 0' if side == 'left' else f'0 0 {np.pi}'
    others = OBJECT | TABLE | ARM['right' if side == 'left' else 'left']
    bits = f'contype="{ARM[side]}" conaffinity="{others}"'
    return f"""
    <body name="{p}base_link" childclass="arm" pos="{place}" euler="{turn}" gravcomp="1">
      <geom type="box" pos="-0.02 0 0.015" size="0.10 0.085 0.015" {bits}/>
      <geom type="cylinder" pos="0 0 0.053" size="0.052 0.026" {bits}/>
      <body name="{p}shoulder_link" pos="0 0 {arm.waist_height}" gravcomp="1">
        {_joint(side, 'waist', '0 0 1')}
        <geom type="cylinder" pos="0 0 0.01" size="0.048 0.012" mass="0.40"
          rgba="{_METAL}" {bits}/>
        <geom type="box" pos="0 0 {arm.shoulder_rise}" size="0.030 0.050 0.033" mass="0.40"
          {bits}/>
        <body name="{p}upper_arm_link" pos="0 0 {arm.shoulder_rise}" gravcomp="1">
          {_joint(side, 'shoulder', '0 1 0')}
          <geom type="capsule" fromto="0 0 0 0 0 {elbow_z}" size="0.026" mass="0.60" {bits}/>
          <geom type="capsule" fromto="0 0 {elbow_z} {elbow_x} 0 {elbow_z}" size="0.026"
            mass="0.19" {bits}/>
          <body name="{p}upper_forearm_link" pos="{elbow_x} 0 {elbow_z}" gravcomp="1">
            {_joint(side, 'elbow', '0 1 0')}
            <geom type="cylinder" fromto="0 -0.038 0 0 0.038 0" size="0.028" mass="0.08"
              rgba="{_METAL}" {bits}/>
            <geom type="capsule" fromto="0 0 0 {arm.upper_forearm} 0 0" size="0.023"
              mass="0.24" {bits}/>
            <body name="{p}lower_forearm_link" pos="{arm.upper_forearm} 0 0" gravcomp="1">
              {_joint(side, 'forearm_roll', '1 0 0')}
              <geom type="box" pos="0.045 0 0" size="0.052 0.022 0.022" mass="0.415" {bits}/>
              <body name="{p}wrist_link" pos="{arm.lower_forearm} 0 0" gravcomp="1">
                {_joint(side, 'wrist_angle', '0 1 0')}
                <geom type="cylinder" fromto="0 -0.028 0 0 0.028 0" size="0.022" mass="0.04"
                  rgba="{_METAL}" {bits}/>
                <geom type="box" pos="0.034 0 0" size="0.034 0.019 0.017" mass="0.075" {bits}/>
                {_hand_xml(side, bits)}
              </body>
            </body>
          </body>
        </body>
      </body>
    </body>"""


def _hand_xml(side: str, bits: str) -> str:
    """Return gripper, camera, tip and the two fingers."""
    arm = vx300s.VX300S
    return f"""<body name="{side}_gripper_link" pos="{arm.wrist_length} 0 0" gravcomp="1">
                  {_joint(side, 'wrist_rotate', '1 0 0')}
                  <geom type="box" pos="0.020 0 0" size="0.022 0.025 0.020" mass="0.098" {bits}/>
                  <geom type="box" pos="0.047 0 0" size="0.009 0.075 0.012" mass="0.151"
                    rgba="{_METAL}" {bits}/>
                  <geom type="box" pos="-0.004 0 0.048" size="0.009 0.014 0.029" mass="0.02"
                    {bits}/>
                  <geom type="box" pos="-0.002 0 0.075" size="0.009 0.021 0.011" mass="0.03"
                    rgba="{_METAL}" {bits}/>
                  <camera name="cam_{side}_wrist" pos="0.01 0 0.075"/>
                  <site name="{side}_tip" pos="{arm.tip_offset} 0 0" size="0.002" rgba="0 0 0 0"/>
                  {_finger_xml(side, 'left_finger', 1, bits)}
                  {_finger_xml(side, 'right_finger', -1, bits)}
                </body>"""


def _finger_xml(side: str, finger: str, sign: int, bits: str) -> str:
    """Return one sliding finger with a pad inside that ends 4 mm beyond the tip frame."""
    arm = vx300s.VX300S
    lower, upper = sorted((sign * arm.lower[6], sign * arm.upper[6]))
    pad, back = -sign * (vx300s.FINGER_PAD - 0.002), -sign * (vx300s.FINGER_PAD - 0.009)
    name, force = f'{side}_{finger}', arm.effort[6]
    return f"""<body name="{name}_link" pos="{arm.fingers_offset} 0 0" gravcomp="1">
                    <joint name="{name}" type="slide" axis="0 1 0" range="{lower} {upper}"
                      damping="2" armature="0.1" actuatorfrcrange="-{force} {force}"/>
                    <geom type="box" pos="0.008 {back} 0" size="0.026 0.005 0.010" mass="0.025"
                      rgba="{_METAL}" {bits}/>
                    <geom name="{name}_pad" type="box" pos="0.0225 {pad} 0"
                      size="0.020 0.002 0.011" mass="0.010" rgba="{_PAD}" {bits} {_GRIP}/>
                  </body>"""


def _joint(side: str, name: str, axis: str) -> str:
    """Return one arm joint with its real range and effort."""
    arm, i = vx300s.VX300S, vx300s.ARM_JOINTS.index(name)
    return (
        f'<joint name="{side}_{name}" axis="{axis}" range="{arm.lower[i]} {arm.upper[i]}" '
        f'actuatorfrcrange="-{arm.effort[i]} {arm.effort[i]}"/>'
    )


def _mimic(side: str) -> str:
    """Return what couples the fingers of a side."""
    return (
        f'<joint joint1="{side}_right_finger" joint2="{side}_left_finger" polycoef="0 -1 0 0 0"/>'
    )


def _servo_xml() -> str:
    """Return a stiffness and a damping actuator a joint: ctrl is [16 positions, 16 velocities]."""
    servo = [(f'{side}_{name}', *gain) for side in vx300s.SIDES for name, gain in _SERVO.items()]
    stiffness = (f'<position joint="{name}" kp="{kp}"/>' for name, kp, _ in servo)
    damping = (f'<velocity joint="{name}" kv="{kv}"/>' for name, _, kv in servo)
    return '\n    '.join(['', *stiffness, *damping])


def _words(values: np.ndarray) -> str:
    return ' '.join(f'{value:g}' for value in values)
